"""The poses of one photo by a trained model: python docs/examples/predict_photo.py MODEL PHOTO OUT.jpg"""

import sys

import icon_dist

if len(sys.argv) != 4:
    sys.exit(__doc__)
model, photo, out = sys.argv[1:]

pose = icon_dist.load(model)  # a run, or a fetched .safetensors file; a path or s3://
poses = pose(photo)  # the whole photo is one instance; boxes=[[x, y, width, height], ...] for several

for name, (x, y), score in zip(poses.names, poses.xy[0], poses.scores[0], strict=True):
    print(f"{name:<16} {x:8.1f} {y:8.1f}  {score:.2f}")
poses.draw().save(out)
