"""The stages, each a module; what plugin and command line both call.

group, find    where a run takes place; a group opened, by its name or file
plan       cells and requests
prepare    manifests and guards
pool, ask  who is asked what, and when
rounds, votes, sane_control    what a group asks next; what samples agree on
score, observe    stored answers -> scores -> observations
judge, judge_process    rules -> analysis, here or in a process of its own
conclude   summary and report
"""
