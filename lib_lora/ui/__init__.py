"""The page, in gradio. The only room that knows gradio."""
