"""The support bundle: facts about this device and its daemon, without a word of anybody's."""
