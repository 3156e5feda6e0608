"""What a network costs, stage by stage, and what each kind of exit adds to it."""

import sentio

for kind in ("pooled-linear", "cnn-ee", "sl-vit"):
    net = sentio.create_network("dcase2024-baseline")
    alone = sentio.profile(net, measure=False).macs
    net = sentio.add_exits(net, kind, at=["block2", "block4"], classes=10)
    profile = sentio.profile(net, repeats=10, threads=1)
    share, ms = profile.macs / alone - 1, profile.exit_ms()
    print(f"{kind}: {share:+.1%} multiply-accumulates, answers after")
    print("   " + ", ".join(f"{exit} {ms[exit]:.2f} ms" for exit in ms))

print(profile.table())  # the last of them, row by row
