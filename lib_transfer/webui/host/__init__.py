"""The program that the page lives in, as the page sees it."""
