"""The command line, the admin interface, metrics and deployment files."""
