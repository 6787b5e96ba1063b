"""Miniature copies of the data sets' layouts, and a server that can be made to fail."""

import hashlib
import io
import json
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image

from topgap_nb import open_dataset


def open_split(name, split, image_size=64, **options):
    return getattr(open_dataset(name, image_size, **options), split)


def picture(path, colour=(200, 100, 50), size=(16, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def labels_image(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)
    return path


def by_class(root, sizes, suffix="jpg"):
    for name, count in sizes.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            picture(root / name / f"{index:03d}.{suffix}", (index * 10 % 256, 100, 50))


def trimap():
    """16 x 16: 8 columns of object, 2 of border, 6 of background."""
    return np.repeat([[1] * 8 + [3] * 2 + [2] * 6], 16, 0)


def pets(root, trainval=("Bengal_1", "Bengal_2", "beagle_1"), test=("Bengal_3", "beagle_2")):
    home = root / "oxford-iiit-pet"
    number = {"Bengal": 6, "beagle": 5}
    for name in (*trainval, *test):
        picture(home / "images" / f"{name}.jpg")
        labels_image(home / "annotations" / "trimaps" / f"{name}.png", trimap())
    for part, names in (("trainval", trainval), ("test", test)):
        rows = [f"{name} {number[name.rpartition('_')[0]]} 1 0\n" for name in names]
        (home / "annotations" / f"{part}.txt").write_text("".join(rows))
    return home


def cub(root):
    """Three birds of two species, 40 x 20 pixels; numbers with a gap, as in a part of the set."""
    home = root / "CUB_200_2011"
    birds = {"1": "001.Black_Tern/a.jpg", "2": "001.Black_Tern/b.jpg", "7": "002.Wren/c.jpg"}
    for name in birds.values():
        picture(home / "images" / name, size=(40, 20))

    def table(file, rows):
        (home / file).write_text("".join(f"{key} {value}\n" for key, value in rows.items()))

    table("images.txt", birds)
    table("image_class_labels.txt", {"1": 1, "2": 1, "7": 2})
    table("train_test_split.txt", {"1": 1, "2": 0, "7": 1})
    table("classes.txt", {"1": "001.Black_Tern", "2": "002.Wren"})
    table("bounding_boxes.txt", dict.fromkeys(birds, "10.0 5.0 20.0 10.0"))
    return home


def waterbirds(root):
    home = root / "waterbird_complete95_forest2water2"
    rows = ["img_id,img_filename,y,split,place,place_filename"]
    birds = [("001.Black_Tern/a", 1, 0, 1), ("001.Black_Tern/b", 1, 1, 0), ("002.Wren/c", 0, 0, 0)]
    birds += [("002.Wren/d", 0, 2, 1)]
    for index, (name, kind, split, place) in enumerate(birds):
        picture(home / f"{name}.jpg", size=(40, 20))
        rows.append(f"{index},{name}.jpg,{kind},{split},{place},/o/ocean/{index}.jpg")
    (home / "metadata.csv").write_text("\n".join(rows) + "\n")
    return home


def coco(root):
    """Train: two lone cats, one lone dog, a crowd, a pair. Val: a lone cat."""
    home = root / "coco"
    square = [[8.0, 4.0, 24.0, 4.0, 24.0, 12.0, 8.0, 12.0]]

    def annotations(folder, shown):
        images, found = [], []
        for number, objects in shown.items():
            picture(home / folder / f"{number:012d}.jpg", size=(32, 16))
            images.append({"id": number, "file_name": f"{number:012d}.jpg", "width": 32})
            images[-1]["height"] = 16
            for category, crowd in objects:
                found.append({"image_id": number, "category_id": category, "iscrowd": crowd})
                found[-1]["segmentation"] = {"counts": []} if crowd else square
        kinds = [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}]
        content = {"images": images, "annotations": found, "categories": kinds}
        path = home / "annotations" / f"instances_{folder}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))

    cat, dog = (17, 0), (18, 0)
    train = {11: [cat], 12: [cat], 13: [dog], 14: [(17, 1)], 15: [cat, dog]}
    (home / "annotations").mkdir(parents=True)
    annotations("train2017", train)
    annotations("val2017", {21: [cat]})
    return home


def wbc(root, count=6):
    home = root / "wbc-microscopy"
    cell = np.zeros((16, 16), np.uint8)
    cell[4:12, 4:12], cell[6:10, 6:10] = 128, 255
    for number in range(1, count + 1):
        picture(home / "images" / f"{number:03d}.png")
        labels_image(home / "masks" / f"{number:03d}.png", cell)
    rows = [f"{number},{1 + number % 2}" for number in range(1, count + 1)]
    (home / "labels.csv").write_text("image ID,class label\n" + "\n".join(rows) + "\n")
    return home


def cifar_npm(root, rows=4):
    """The npm package's layout; image i of a split is filled with i, its channel 2 with 7."""
    home = root / "cifar10"
    home.mkdir(parents=True)
    names = {"test": ["test_batch"], "train": [f"data_batch_{i}" for i in range(1, 6)]}
    for split, files in names.items():
        for part, name in enumerate(files):
            images = np.empty((rows, 32, 32, 3), np.uint8)
            images[:] = (np.arange(rows) + part * rows)[:, None, None, None]
            images[..., 2] = 7
            Image.fromarray(images.reshape(rows, 1024, 3)).save(home / f"{name}.png")
        labels = [index % 2 for index in range(rows * len(files))]
        (home / f"{split}_lables.json").write_text(json.dumps(labels))
    return home


def tar_of(files):
    """The bytes of a .tgz with these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def md5(content):
    return f"md5:{hashlib.md5(content).hexdigest()}"


class Server(ThreadingHTTPServer):
    """Serves ``files`` by name; ``cut`` bytes into an answer it hangs up, once."""

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.cut, self.ranges, self.asked = files, None, True, []
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}).start()

    def url(self, name):
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        content = server.files.get(self.path[1:])
        if content is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if not server.ranges:
            start = 0
        self.send_response(206 if wanted and server.ranges else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end, server.cut = server.cut, None
        self.wfile.write(content[start:end])

    def log_message(self, *_):
        pass
