"""The tab in a real browser, on the gradio of whatever environment runs this."""
