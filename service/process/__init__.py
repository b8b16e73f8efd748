"""The daemon as an operating-system process: systemd, data lock, logging, crash loop, shutdown."""
