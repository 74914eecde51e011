"""The stages, each a module; what plugin and command line both call.

group, find    where a run takes place; a group opened, by its name or file
plan       cells and requests
prepare    manifests and guards
driver     what a group asks next, however one asks
rounds, votes, sane_control    what the driver goes by; what samples agree on
ask, pool  the ways of asking, and the live one
score, observe    stored answers -> scores -> observations
judge, judge_process    rules -> analysis, here or in a process of its own
stored_plan    the stored answers of a group's plan; needs no data, no model
browse     the same as a page of answers, with the prompts that were sent
conclude   summary and report
"""
