"""Probes: accuracy of linear classifiers of the label on chosen units, for held-out words.

An accuracy alone says little, so every probe comes with its baselines: the majority label, the most
frequent label of the word itself, as many random neurons of the same layers, all neurons of one
layer, and a control task whose labels are random per word type (Hewitt & Liang 2019).
"""
