"""What users bring as classes of their own: policies and engines.

classes   their names, and what each is: read by a process that imports it, and remembered
loading   how that process, and the one that serves, imports them
"""
