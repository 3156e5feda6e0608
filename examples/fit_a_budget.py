"""The largest PhiNet that fits a budget, and what folding its batch norms leaves of it."""

import torch

import sentio
from sentio.techniques.batch_norm_folding import fold_batch_norm

torch.manual_seed(0)
net = sentio.fit_budget("phinet", params=30_000, macs=5_000_000, ram=100_000, classes=50).eval()
print("chosen:", net.spec["options"])

folded = fold_batch_norm(net)
x = net.example(batch=1)
with torch.no_grad():
    apart = (net(x) - folded(x)).abs().max()
for name, form in (("as trained", net), ("folded", folded)):
    print(f"{name:10}  {sum(p.numel() for p in form.parameters()):6,} parameters")
print(f"logits at most {apart:.1e} apart")
