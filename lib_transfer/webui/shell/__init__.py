"""What the views share: controls, forms, jobs and their status, HTML."""
