"""The steps, one a module, named by the schema that each leads to."""
