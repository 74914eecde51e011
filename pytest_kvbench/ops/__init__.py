"""What concerns whole groups: put into an archive, brought back, cleaned away.

depot    archive, restore, clean
"""
