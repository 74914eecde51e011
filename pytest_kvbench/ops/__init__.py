"""What concerns whole groups, and all of them together.

archive     archive, restore, clean, by a group and the controls it used
stored_plan  the stored answers of a group's plan; needs no data, no model
baselines   a side of a comparison, by the name of its group, baseline or file
dry_run     stored answers by other rules
columns, rows -> aggregate   all groups as one Parquet data set
     -> catalog, effects -> insights, listing    what it says
     -> frames                      one group for a notebook
inspect_logs, artifacts, sheet      for other tools
"""
