"""Policies of other code bases as policies of robodiff: a module a source."""
