"""Half a minute of street, rendered, and what happens in it. Needs no PyTorch."""

from sentio.data.simulate.labels import read_labels
from sentio.data.simulate.rendering import render_street

street = render_street("street", minutes=0.5, seed=4)

print("recordings:", [file.name for file in sorted((street / "audio").iterdir())])
for event in read_labels(street):
    away, ratio = event.details["distance_m"], event.details["snr_db"]
    print(f"{event.onset:6.2f} to {event.offset:6.2f} s  {event.label:10} {away:>6} m away, {ratio:>5} dB")
