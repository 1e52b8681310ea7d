"""The gate: questions to a finished run, asked at the site before anything leaves.

1. *Review* (`review`): what will the coordinator's intake ask of every class?
2. *Support* (`support`): does the generator repeat a few images?
3. *Near copies* (`near_copies`): do its samples lie closer to one training unit than images of
   units that were held out of training do?
4. *Membership* (`membership`): do the weights tell the units they were trained on from those held
   out?
5. *One-run audit* (`one_run`): do they tell them apart better than the claimed epsilon allows?

The rules are pure functions over arrays; `scores` asks the network, `examination` does the
reading, the writing and the remembering.

What it cannot tell: 1 to 3 see pixels and a few hundred samples, miss copies that are shifted,
recoloured, cut or buried in heavy noise, and copies rarer than about one sample in ten. 4 and 5
see the weights through one simple attack; stronger ones exist, and one run on a few hundred units
cannot refute a large epsilon at all. The gate finds broken and memorising runs; it proves no
privacy, and passing it is no reason to train with less noise. Every figure is private: only pass
or fail leaves (A11).
"""
