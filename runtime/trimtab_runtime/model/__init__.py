"""The model: the artifact's files become a session that has answered once before anybody may ask."""
