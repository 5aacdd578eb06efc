"""The page's routes and those for scripts. Plain Starlette, the same under every FastAPI and gradio."""
