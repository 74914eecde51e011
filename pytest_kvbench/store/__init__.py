"""What was asked and answered, and what groups share. SQL lives here alone.

store         one SQLite file per group: manifests, analysis; contents reads all of it
places        where groups are
database      a connection, with its errors in words
controls, control_file, registry    shared controls
archive, origin    a group in one file, and where it came from
presence, outstanding, keys, upkeep  who is at work, what is left, what lies about
"""
