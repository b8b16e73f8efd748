"""Secrets in text: find them, mask them."""

from lars_agent.secrets.finder import find_secret, find_secrets, mask_secrets
from lars_agent.secrets.found import Secret

__all__ = ["Secret", "find_secret", "find_secrets", "mask_secrets"]
