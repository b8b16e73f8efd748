"""Ops: crowds of silent connections, random requests, damaged files and hours of load, against the real daemon."""
