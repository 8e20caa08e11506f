"""Who has had how much of the yard, what each may have, and the settings file of the yard."""
