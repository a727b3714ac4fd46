"""The statistics of a lesion study: tag-by-tag losses against matched shams.

M[i, j] is the mean rise in tag loss (nats) of words with label j when label i's neurons are cut.
A study asks whether the damage is selective, and never against one control: every statistic has a
null distribution of sham lesions that are matched in layer and in expected output.
"""
