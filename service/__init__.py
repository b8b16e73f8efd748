"""The daemon: settings, database, schedule, supervision of the training worker, REST and dashboard."""
