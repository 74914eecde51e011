"""Answers one by one, for pages that one works in: pairs with filters, and one example whole.

records     what a page shows: examples, arms, answers, and which answers are compared
group       those of one group, made from its observations
marks       where the evidence stands in a prompt, and a prompt cut to it
links       where the answers of a cell are shown
packed      the same as data inside a page, within a size
"""
