"""Scripted experts: waypoint controllers that read the simulator's state."""
