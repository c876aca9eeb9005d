"""Drop-ins of the bench, copied into the folder of a rig of its own; they are in no list of a user."""
