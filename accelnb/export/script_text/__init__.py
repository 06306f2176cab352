"""Where each step goes in the script, and the script's text."""
