"""A small plugin for the tests of the host: every knob that the host must cope with.

Its folder is a site directory: put it on ``sys.path`` or PYTHONPATH and the plugin is installed.
"""
