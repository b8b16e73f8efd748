"""English as far as words show it: whom a question is about, its other wordings, and what a person states."""
