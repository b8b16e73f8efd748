"""The page at `/`: where the daemon stands, what the last night brought, and the buttons for both."""
