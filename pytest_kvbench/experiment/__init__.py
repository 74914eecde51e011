"""What is declared.

limits     how much an experiment may ask for
section    what every section is
schema, engine, executor    the sections
load       files, bases, environment and overrides -> `Experiment`
explain    errors in two lines
"""
