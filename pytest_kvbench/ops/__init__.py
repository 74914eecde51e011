"""What concerns whole groups, and all of them together.

archive     archive, restore, clean, by a group and the controls it used
baselines   a side of a comparison, by the name of its group, baseline or file
dry_run     stored answers by other rules
columns, rows -> aggregate, lineages   all groups as one Parquet data set, copies of a group once
     -> recipes -> arms -> best     every arm against the control, over all groups that asked alike
     -> effects -> insights, rollups, listing, catalog    what it says
     -> frames                      one group for a notebook
target_store, run_names, run_nodes -> targets   the content-addressed store
paired -> posteriors                a posterior over the pairs of all groups
inspect_logs, sheet                 for other tools
"""
