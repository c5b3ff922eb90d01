"""The configuration: one YAML file, checked as a whole before anything is started."""
