r"""DDPM in one screen: train a small U-Net on 8 x 8 digits, then draw 64 new ones.

    python 01_example/ddpm/minimal.py

takes three minutes on two CPU cores and writes minimal.png. Algorithms 1 and 2 are those of Ho,
Jain and Abbeel 2020 (arXiv 2006.11239); train.py and sample.py do the same on any data and device,
with flags and checkpoints.
"""
import torch
import torch.nn.functional as F
from PIL import Image

from data import digits, to_uint8, to_unit
from ddpm import cosine_schedule, l_simple, sample
from unet import UNet

T, STEPS, BATCH = 200, 1500, 128

torch.manual_seed(0)
x = to_unit(digits()[0])                            # 1,797 digits, (1797, 1, 8, 8), in [-1, 1]
alpha_bar = cosine_schedule(T)
network = UNet(width=32)                            # eps_theta(x_t, t)
optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, STEPS)

for step in range(1, STEPS + 1):                    # Algorithm 1
    x_0 = x[torch.randint(len(x), (BATCH,))]
    t = torch.randint(1, T + 1, (BATCH,))
    eps = torch.randn_like(x_0)
    loss = l_simple(network, x_0, t, eps, alpha_bar)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    decay.step()
    if step % 100 == 0:
        print(f"step {step} of {STEPS}: loss {loss.item():.3f}")

*_, x_0 = sample(network, torch.randn(64, 1, 8, 8), alpha_bar, clip=True)       # Algorithm 2

tiles = F.pad(to_uint8(x_0), [1] * 4, value=96)     # a grey line around each digit
canvas = tiles.view(8, 8, 10, 10).transpose(1, 2).reshape(80, 80)
Image.fromarray(canvas.numpy()).resize((640, 640), Image.Resampling.NEAREST).save("minimal.png")
print("64 digits: minimal.png")
