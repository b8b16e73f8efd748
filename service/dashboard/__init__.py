"""The page at `/`: where the daemon stands, the result of the last run, and the buttons for both."""
