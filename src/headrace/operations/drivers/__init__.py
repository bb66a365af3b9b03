"""Drivers as the operator sees them: launchers, desired state, control and upgrades."""
