"""UNet, VAE and text encoders made of somebody's tensors; prompt encoding; sampling."""
