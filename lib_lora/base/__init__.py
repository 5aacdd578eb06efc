"""What every room uses: errors, option fields, registries, progress events, stop signals, seeds."""
