"""One personalization cycle: from feedback to a judged and served adapter version."""
