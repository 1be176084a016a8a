"""The machine as a test sees it: one module for each subject, and `Machine` has them all.

Method names, parameters, defaults and failure behaviour are those of the NixOS test driver where
it has them.
"""
