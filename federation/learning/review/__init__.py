"""Review aids: what arithmetic can say of a blueprint's synthetic images before a person decides.

Every aid is a pure function of images that generators drew, and gives one `Finding`: what it
measured, from where on it is flagged, and what it cannot tell. None of them decides anything, and
none sees a private image. What each is made from:

- `constant`, `duplicates`, `noise`, `unlike` (`appearance`): spread, support estimate, neighbour
  correlation, standardised distance of mean images;
- `classes`, `labels` (`labels`): linear discriminants on random features (Fisher 1936; Rahimi and
  Recht 2007), trained on halves of the blueprint's own classes, or on the other blueprints;
- `trigger` (`trigger`): local differences of class means between blueprints, the idea of spectral
  signatures (Tran et al. 2018, arXiv:1811.00636): what poisons a class moves its statistics;
- `influence` (`influence`): leave one blueprint out, and judge the others' held-out images;
- `revoked` (`sketch`): sign bits of keyed random projections (Charikar 2002) of what was revoked.

What every one of them misses stands in `docs/coordinator-manual.md`, "Before you approve".
"""
