"""The names of the older Yotpo connector, kept for workflows that still call them."""
