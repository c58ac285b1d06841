"""Choose what to label next, as Label Studio tasks with predictions: ``icon-dist pick MODEL PHOTO|DIR|SHARDS... -n N``.

Images are chosen of which the model is unsure, and which are unlike each other: the choice is
:mod:`icon_dist.inference.active_learning`, all the rest :mod:`icon_dist.reports.picking`.
"""

from __future__ import annotations

from icon_dist.cli import Once, Parser, at_least
from icon_dist.command_exit import run_cli
from icon_dist.errors import ConfigError
from icon_dist.predict import parse_boxes


def main(argv: list[str]) -> None:
    """Run ``icon-dist pick`` with these words: write tasks, the labelling interface and a picture."""
    parser = Parser("icon-dist pick", __doc__.splitlines()[0])
    add = parser.add_argument
    add("model", metavar="MODEL", help="a run (its best checkpoint) or a fetched .safetensors file; path or s3://")
    add("inputs", metavar="PHOTO|DIR|SHARDS", nargs="+", help="photos, folders of photos, or one set of shards")
    add("-n", "--count", type=at_least(1), default=100, metavar="N", help="images to choose; default %(default)s")
    text = "the tasks to import; FILE.xml, the interface, and FILE.jpg, a picture, come beside it; default %(default)s"
    add("-o", "--out", default="tasks.json", metavar="FILE.json", help=text)
    text = "where the instances of photos are: the whole photo, a box in px, a COCO file, or RTMDet or YOLOX"
    add("--boxes", action=Once, metavar="whole|x,y,w,h|FILE.json|DETECTOR.onnx", help=text)
    text = "the URL of the folder of the images, such as https://host/photos/; default: Label Studio's local files"
    add("--prefix", metavar="URL", help=text)
    add("--skip-bad", action="store_true", help="name photos that cannot be read, and go on without them")
    parser.add_force()
    add("--device", metavar="NAME", help="such as cpu or cuda:1; default: a GPU if there is one")
    add("--batch", type=at_least(1), default=32, help="instances at once; default %(default)s")
    args = parser.parse_intermixed_args(argv)
    if not args.out.endswith(".json"):
        raise ConfigError(f"-o {args.out}: tasks are a JSON file; name it FILE.json")
    parse_boxes(args)

    from icon_dist.reports import picking

    picking.run(args)


if __name__ == "__main__":
    run_cli(main)
