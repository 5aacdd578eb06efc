"""The routes of the Dataset tab, over real folders."""

from __future__ import annotations

import json
import threading
import time

import pytest
from PIL import Image

from lib_lora.api import open_datasets
from lib_lora.api.open_datasets import DATASETS, OpenDatasets
from lib_lora.base.errors import StudioError

ROUTES = "/lora-studio/"
CAPTIONS = {"1.png": "zorb, red hair, hat", "2.jpg": "zorb, blue hair", "3.png": "zorb, red hair", "4.png": None}
WAIT_SECONDS = 20


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "set" / "10_zorb"
    place.mkdir(parents=True)
    for index, (name, caption) in enumerate(CAPTIONS.items()):
        Image.new("RGB", (300 + 10 * index, 400), (60 * index, 90, 200)).save(place / name)
        if caption is not None:
            (place / name).with_suffix(".txt").write_text(caption, encoding="utf-8")
    return place.parent


class Desk:
    """An open dataset as a page talks of it."""

    def __init__(self, client, folder):
        self.client, self.folder = client, folder
        self.status = self.opened(folder)
        self.id = self.status["id"]
        columns = self.get("items")
        self.ids = {name.rpartition("/")[2]: id for name, id in zip(columns["names"], columns["ids"])}

    def opened(self, folder):
        answer = self.client.post(f"{ROUTES}dataset/open", json={"folder": str(folder)}).json()
        until = time.monotonic() + WAIT_SECONDS
        while answer["opening"] and time.monotonic() < until:
            time.sleep(0.02)
            answer = self.client.get(f"{ROUTES}dataset/{answer['id']}").json()
        return answer

    def get(self, path, status=200):
        answer = self.client.get(f"{ROUTES}dataset/{self.id}/{path}".rstrip("/"))
        assert answer.status_code == status, answer.text
        return answer.json()

    def post(self, path, body=None, status=200):
        answer = self.client.post(f"{ROUTES}dataset/{self.id}/{path}", json=body or {})
        assert answer.status_code == status, answer.text
        return answer.json()

    def task(self, path, body):
        """Start what takes a while and wait for it."""
        view, until = self.post(path, body), time.monotonic() + WAIT_SECONDS
        while view["running"] and time.monotonic() < until:
            time.sleep(0.02)
            view = self.get("task")
        assert view["error"] is None, view["error"]
        return view["result"]

    def caption(self, name):
        path = (self.folder / "10_zorb" / name).with_suffix(".txt")
        return path.read_text("utf-8") if path.exists() else None

    def names(self, query, **more):
        by_id = {id: name for name, id in self.ids.items()}
        return [by_id[id] for id in self.post("filter", {"query": query, **more})["ids"]]


@pytest.fixture
def desk(client, folder):
    return Desk(client, folder)


def test_a_folder_is_opened_and_its_pictures_come_in_columns(desk, client):
    status = desk.status
    assert status["error"] is None and status["read_only"] is None
    assert (status["undo"], status["redo"]) == (None, None)
    answer = client.get(f"{ROUTES}dataset/{desk.id}/items")
    columns = answer.json()
    assert [name for name in columns["names"]] == [f"10_zorb/{name}" for name in CAPTIONS]
    assert columns["widths"] == [300, 310, 320, 330] and columns["flags"] == [0, 0, 0, 1]
    again = client.get(f"{ROUTES}dataset/{desk.id}/items", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304
    assert desk.opened(desk.folder)["id"] == desk.id


def test_a_folder_that_is_read_in_two_ways_is_two_datasets_with_one_history(desk, client, folder):
    (folder / "10_zorb" / "1.caption").write_text("another", encoding="utf-8")
    Image.new("RGB", (64, 64)).save(folder / "flat.png")

    class Other(Desk):
        def opened(self, folder):
            body = {"folder": str(folder), "caption_extension": ".caption", "recursive": True}
            return client.post(f"{ROUTES}dataset/open", json=body).json()

    other = Other(client, folder)
    assert other.id != desk.id and other.status["caption_extension"] == ".caption"
    assert other.get(f"items/{other.ids['1.png']}")["caption"] == "another"
    assert desk.get(f"items/{desk.ids['1.png']}")["caption"] == CAPTIONS["1.png"]
    add = {"edit": "add", "values": {"tags": "sky"}}
    other.post("edit/apply", {**add, "ids": [other.ids["1.png"], other.ids["4.png"]]})
    assert (folder / "10_zorb" / "1.caption").read_text("utf-8") == "another, sky"
    assert (folder / "10_zorb" / "4.caption").read_text("utf-8") == "sky"
    desk.post("edit/apply", {**add, "ids": [desk.ids["2.jpg"]]})
    other.post("refresh")
    assert other.get(f"items/{other.ids['2.jpg']}")["caption"] == CAPTIONS["2.jpg"] + ", sky"
    for _ in range(2):
        other.post("undo")
    assert desk.caption("2.jpg") == CAPTIONS["2.jpg"] and not (folder / "10_zorb" / "4.caption").exists()
    assert (folder / "10_zorb" / "1.caption").read_text("utf-8") == "another"

    flat = client.post(f"{ROUTES}dataset/open", json={"folder": str(folder), "recursive": False}).json()
    assert flat["id"] not in (desk.id, other.id) and flat["recursive"] is False
    assert client.get(f"{ROUTES}dataset/{flat['id']}/items").json()["names"] == ["flat.png"]
    assert DATASETS.holding(folder / "10_zorb").reading.recursive
    wrong = client.post(f"{ROUTES}dataset/open", json={"folder": str(folder), "caption_extension": ".py"})
    assert wrong.status_code == 422 and wrong.json()["error"]["field"] == "caption_extension"


def test_what_is_not_there_is_said(desk, client, tmp_path):
    assert client.get(f"{ROUTES}dataset/0123").status_code == 404
    assert desk.get("items/99", 404)["error"]["field"] == "item"
    assert desk.get("thumb/x", 404)["error"]["field"] == "item"
    error = client.post(f"{ROUTES}dataset/open", json={"folder": str(tmp_path / "nowhere")})
    assert error.status_code == 422 and error.json()["error"]["field"] == "folder"


def test_others_open_only_what_they_are_allowed_to(exposed_client, client, folder, pictures):
    refused = exposed_client.post(f"{ROUTES}dataset/open", json={"folder": str(folder)})
    assert refused.status_code == 422 and refused.json()["error"]["field"] == "folder"
    mine = Desk(client, folder)
    assert exposed_client.get(f"{ROUTES}dataset/{mine.id}").status_code == 422
    assert exposed_client.get(f"{ROUTES}dataset/{mine.id}/picture/{mine.ids['1.png']}").status_code == 422
    theirs = Desk(exposed_client, pictures)
    theirs.post("move", {"ids": [], "folder": str(folder)}, 422)


def test_others_reach_nothing_through_links_and_no_dataset_s_own_folder(exposed_client, pictures, folder):
    (pictures / "in").symlink_to(folder)
    theirs = Desk(exposed_client, pictures)
    assert set(theirs.ids) == {f"{index}.png" for index in range(5)}
    assert any("in: a link to outside" in note for note in theirs.status["notes"])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    theirs.post("trash", {"ids": list(theirs.ids.values())})
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    own = str(pictures / ".lora_studio" / "trash")
    theirs.post("move", {"ids": [], "folder": own}, 422)
    refused = exposed_client.post(f"{ROUTES}dataset/open", json={"folder": own})
    assert refused.status_code == 422 and refused.json()["error"]["field"] == "folder"


def test_what_this_machine_s_user_opened_is_not_what_others_see(exposed_client, client, pictures, folder):
    (pictures / "in").symlink_to(folder)
    mine = Desk(client, pictures)
    assert "1.png" in mine.ids and len(mine.ids) > 5
    assert exposed_client.get(f"{ROUTES}dataset/{mine.id}/items").status_code == 404
    assert len(Desk(exposed_client, pictures).ids) == 5
    mine.get("items", 404)


def test_one_picture_has_its_caption_and_what_is_known_of_its_tags(desk):
    view = desk.get(f"items/{desk.ids['1.png']}")
    assert view["caption"] == CAPTIONS["1.png"] and view["locked"] is None and view["mask"] is False
    assert [(each["tag"], each["count"], each["category"]) for each in view["tags"]] == [
        ("zorb", 3, ""),
        ("red hair", 2, "looks"),
        ("hat", 1, ""),
    ]
    assert (view["width"], view["height"], view["repeats"], view["concept"]) == (300, 400, 10, "zorb")


def test_filters_sort_and_mistakes(desk):
    assert desk.names("red hair -hat") == ["3.png"]
    assert desk.names("is:uncaptioned") == ["4.png"]
    assert desk.names("selected", selected=[desk.ids["2.jpg"]]) == ["2.jpg"]
    assert desk.names("", by="width", reverse=True) == ["4.png", "3.png", "2.jpg", "1.png"]
    error = desk.post("filter", {"query": "hat tags>x"}, 422)["error"]
    assert error["field"] == "filter" and "position 10" in error["message"]


def test_tags_are_counted_over_all_and_over_some(desk):
    counts = desk.post("tags")
    assert dict(zip(counts["tags"], counts["counts"])) == {"zorb": 3, "red hair": 2, "hat": 1, "blue hair": 1}
    assert desk.post("tags", {"ids": [desk.ids["2.jpg"]]})["tags"] == ["blue hair", "zorb"]
    desk.post("tags", {"ids": ["1"]}, 422)


def test_a_caption_is_taken_apart_and_its_portions_of_75_tokens_found(desk):
    wait_for(lambda: desk.post("parts", {"text": "a"})["tokens"] is not None)
    text = ", ".join(f"tag{index}" for index in range(40))  # two tokens each with their commas
    found = desk.post("parts", {"text": text})
    assert found["tokens"] == 79 and found["before"][:2] == ["tag0", "tag1"]
    assert [text[cut:].split(",")[0].strip() for cut in found["cuts"]] == ["tag37"]
    sentence = "A tall girl in a red coat stands under a tree, holding the hat of her old aunt."
    assert desk.post("parts", {"text": f"zorb, {sentence} indoors"})["prose"] == sentence


def test_captions_are_written_and_a_conflict_is_given_back(desk):
    id, was = desk.ids["2.jpg"], CAPTIONS["2.jpg"]
    done = desk.post("captions", {"new": {id: "zorb, mine"}, "was": {id: was}})
    assert done["changed"] == [id] and done["conflicts"] == [] and done["status"]["undo"] == "caption"
    late = desk.post("captions", {"new": {id: "zorb, too late"}, "was": {id: was}})
    assert [(each["id"], each["text"]) for each in late["conflicts"]] == [(id, "zorb, mine")]
    assert desk.caption("2.jpg") == "zorb, mine"
    refused = desk.post("captions", {"new": {id: ""}, "was": {id: "zorb, mine"}})
    assert [each["id"] for each in refused["conflicts"]] == [id] and desk.caption("2.jpg") == "zorb, mine"
    desk.post("captions", {"new": {id: ""}, "was": {id: "zorb, mine"}, "empty": [id]})
    assert desk.caption("2.jpg") is None
    desk.post("captions", {"new": {"x": "y"}, "was": {}}, 422)


def test_captions_are_deleted_and_the_first_ones_brought_back(desk):
    id = desk.ids["1.png"]
    desk.post("captions", {"new": {id: "one"}, "was": {id: CAPTIONS["1.png"]}})
    desk.post("captions", {"new": {id: "two"}, "was": {id: "one"}})
    desk.post("captions/delete", {"ids": [id]})
    assert desk.caption("1.png") is None and (desk.folder / "10_zorb" / "1.png").exists()
    desk.post("captions/first", {"ids": [id]})
    assert desk.caption("1.png") == CAPTIONS["1.png"]


def test_an_edit_is_shown_made_undone_and_done_again(desk, client):
    kinds = client.get(f"{ROUTES}dataset/edits").json()["edits"]
    add = next(each for each in kinds if each["name"] == "add")
    assert [option["name"] for option in add["options"]] == ["tags", "at", "place", "move"]
    body = {"edit": "add", "values": {"tags": "sky", "at": "front"}, "ids": list(desk.ids.values())}
    preview = desk.post("edit/preview", body)
    assert preview["changed"] == 4
    assert preview["examples"][0] == [desk.ids["1.png"], "zorb, red hair, hat", "sky, zorb, red hair, hat"]
    assert desk.caption("1.png") == CAPTIONS["1.png"]
    assert len(desk.post("edit/apply", body)["changed"]) == 4
    assert desk.caption("1.png") == "sky, zorb, red hair, hat" and desk.caption("4.png") == "sky"
    undone = desk.post("undo")
    assert undone["status"]["redo"] == "add sky" and desk.caption("4.png") is None
    assert desk.post("redo")["status"]["undo"] == "add sky" and desk.caption("1.png").startswith("sky")
    assert [each["what"] for each in desk.get("history")["entries"]] == ["add sky"]
    by_category = {"edit": "sort", "values": {"by": "category"}, "ids": [desk.ids["1.png"]]}
    assert desk.post("edit/preview", by_category, 422)["error"]["field"] == "by"
    client.post(f"{ROUTES}dataset/tag-lists", json={"name": "a.csv", "text": "hat,4,1\nsky,0,1\nred hair,0,1\n"})
    assert desk.post("edit/preview", by_category)["examples"][0][2].startswith("hat, ")
    wrong = desk.post("edit/preview", {**body, "values": {"tags": "", "at": "front"}}, 422)
    assert wrong["error"]["field"] == "tags"


def test_a_large_edit_is_a_task_that_gives_what_was_done(desk):
    body = {"edit": "add", "values": {"tags": "sky"}, "ids": list(desk.ids.values())}
    done = desk.task("edit/run", body)
    assert len(done["changed"]) == 4 and done["conflicts"] == [] and done["status"]["undo"] == "add sky"
    progress = desk.get("task")["progress"]
    assert (progress["what"], progress["total"]) == ("add sky", 4) and {"rate", "seconds_left"} <= set(progress)
    wrong = desk.post("edit/run", {**body, "values": {"tags": ""}}, 422)
    assert wrong["error"]["field"] == "tags"


def test_captions_come_from_a_metadata_file_and_go_into_one(desk):
    text = '{"/elsewhere/1.png": {"caption": "A girl.", "tags": "zorb, sky"}, "2": {"tags": "x"}, "9": {"tags": "y"}}'
    body = {"file": "meta_cap.json", "text": text, "values": {"take": "both", "policy": "overwrite"}}
    body["ids"] = [desk.ids[name] for name in ("1.png", "3.png", "4.png")]
    seen = desk.post("metadata/preview", body)
    assert seen["changed"] == 1 and seen["examples"][0][2] == "A girl., zorb, sky"
    assert (seen["unknown"], seen["ambiguous"]) == (["2", "9"], [])
    assert desk.caption("1.png") == CAPTIONS["1.png"]
    done = desk.post("metadata/take", body)
    assert done["changed"] == [desk.ids["1.png"]] and desk.caption("1.png") == "A girl., zorb, sky"
    assert desk.post("undo")["status"]["redo"] == "captions from meta_cap.json"
    assert desk.caption("1.png") == CAPTIONS["1.png"]
    assert desk.post("metadata/preview", {**body, "text": "["}, 422)["error"]["message"].startswith("meta_cap.json")
    assert desk.post("metadata/take", {**body, "values": {"policy": "x"}}, 422)["error"]["field"] == "policy"

    written = desk.post("metadata/give", {"ids": body["ids"], "values": {"keys": "stem"}, "lines": False})
    assert written["captions"] == 2
    assert json.loads(written["text"]) == {"1": {"tags": CAPTIONS["1.png"]}, "3": {"tags": CAPTIONS["3.png"]}}
    lines = desk.post("metadata/give", {"ids": body["ids"], "values": {"keys": "name"}, "lines": True})["text"]
    assert json.loads(lines.splitlines()[0]) == {"file_name": "10_zorb/1.png", "tags": CAPTIONS["1.png"]}


def test_pictures_are_moved_copied_and_thrown_away(desk):
    other = desk.folder / "3_other"
    other.mkdir()
    desk.post("copy", {"ids": [desk.ids["1.png"]], "folder": str(other)})
    assert (other / "1.txt").read_text("utf-8") == CAPTIONS["1.png"]
    desk.post("move", {"ids": [desk.ids["2.jpg"]], "folder": str(other)})
    assert (other / "2.jpg").exists() and not (desk.folder / "10_zorb" / "2.jpg").exists()
    desk.post("trash", {"ids": [desk.ids["3.png"]]})
    assert desk.caption("3.png") is None
    desk.post("undo")
    assert desk.caption("3.png") == CAPTIONS["3.png"]


def test_the_disk_space_of_trash_and_history_is_told_and_freed(desk):
    assert desk.get("kept")["trash_files"] == 0
    desk.post("trash", {"ids": [desk.ids["1.png"]]})
    kept = desk.get("kept")
    assert kept["trash_files"] == 2 and kept["trash_bytes"] > 100 and kept["history_bytes"] > 0
    assert desk.post("trash/empty")["status"]["undo"] == "delete"
    assert desk.get("kept")["trash_files"] == 0
    conflicts = desk.post("undo")["conflicts"]
    assert conflicts and all("is gone" in each["why"] for each in conflicts)
    assert desk.post("history/forget")["status"]["undo"] is None
    assert desk.get("history")["entries"] == [] and desk.post("undo")["changed"] == []


def test_thumbnails_are_small_kept_and_known_to_the_browser(desk, client, studio):
    path = f"{ROUTES}dataset/{desk.id}/thumb/{desk.ids['2.jpg']}"
    small = client.get(f"{path}?v=1")
    assert small.status_code == 200 and small.headers["content-type"] == "image/jpeg"
    assert "immutable" in small.headers["cache-control"]
    assert len(list((studio.host.data_dir / "thumbnails").rglob("*.jpg"))) == 1
    assert client.get(path, headers={"If-None-Match": small.headers["etag"]}).status_code == 304
    whole = client.get(f"{ROUTES}dataset/{desk.id}/picture/{desk.ids['2.jpg']}")
    assert whole.content == (desk.folder / "10_zorb" / "2.jpg").read_bytes()
    (desk.folder / "10_zorb" / "2.jpg").write_bytes(b"no picture")
    assert client.get(path).status_code == 404


def test_suggestions_and_lists_of_tags(desk, client, studio):
    lists = f"{ROUTES}dataset/tag-lists"
    csv = 'red_shoes,0,900,"crimson_shoes,ruby"\nzorb_(series),3,50,\n'
    added = client.post(lists, json={"name": "booru.csv", "text": csv})
    assert added.json() == {"lists": ["booru.csv"], "tags": 2, "notes": []}
    found = desk.get("complete?text=Red")["tags"]
    assert [each["tag"] for each in found] == ["red hair", "red shoes"] and found[0]["here"] == 2
    assert desk.get("complete?text=crim")["tags"][0]["alias"] == "crimson shoes"
    assert desk.get("complete?text=zorb")["tags"][1]["category"] == "copyright"
    assert client.post(lists, json={"name": "../x.csv", "text": csv}).status_code == 422
    assert client.post(lists, json={"name": "x.csv", "text": ""}).json()["error"]["field"] == "text"
    assert client.delete(f"{lists}/booru.csv").json() == {"lists": [], "tags": 0, "notes": []}
    assert client.delete(f"{lists}/booru.csv").status_code == 404


def test_a_list_of_tags_in_another_encoding_is_left_out_and_pictures_are_shown_all_the_same(desk, client, studio):
    (studio.host.data_dir / "tags").mkdir(parents=True)
    (studio.host.data_dir / "tags" / "latin.csv").write_bytes("caf\u00e9,0,1\n".encode("latin-1"))
    assert desk.get(f"items/{desk.ids['1.png']}")["caption"] == CAPTIONS["1.png"]
    assert desk.get("complete?text=red")["tags"][0]["tag"] == "red hair"
    answer = client.get(f"{ROUTES}dataset/tag-lists").json()
    assert answer == {"lists": ["latin.csv"], "tags": 0, "notes": ["latin.csv is left out: it is not UTF-8"]}


def test_a_person_s_own_groups_of_tags(desk, client, studio):
    path = f"{ROUTES}dataset/tag-groups"
    assert client.get(path).json() == {"text": "", "groups": [], "problem": None}
    client.post(f"{ROUTES}dataset/tag-lists", json={"name": "a.csv", "text": "hat,0,1\nred dress,0,5\n"})
    made = client.post(path, json={"text": "# mine\noutfit: hat, * dress, red boots\n"}).json()
    assert made["groups"] == ["outfit"]
    tags = desk.post("tags")
    kinds = dict(zip(tags["tags"], tags["categories"]))
    assert (kinds["hat"], kinds["red hair"], kinds["zorb"]) == ("outfit", "looks", "")
    found = desk.get("complete?text=red")["tags"]
    assert [(each["tag"], each["category"]) for each in found] == [
        ("red hair", "looks"),
        ("red boots", "outfit"),
        ("red dress", "outfit"),
    ]
    refused = client.post(path, json={"text": "outfit: hat\nno group"})
    assert refused.status_code == 422 and "line 2" in refused.json()["error"]["message"]
    assert client.get(path).json()["groups"] == ["outfit"]
    (studio.host.data_dir / "tag_groups.txt").write_text("by hand", encoding="utf-8")
    assert "line 1" in client.get(path).json()["problem"]
    assert desk.get(f"items/{desk.ids['1.png']}")["tags"][2]["category"] == "general"


def test_what_other_programs_do_is_taken(desk):
    before = desk.get("")["version"]
    (desk.folder / "10_zorb" / "2.txt").write_text("zorb, by hand", encoding="utf-8")
    wait_for(lambda: desk.get("")["version"] != before)
    # The file may have been looked at while it was still empty.
    wait_for(lambda: desk.get("") and desk.get(f"items/{desk.ids['2.jpg']}")["caption"] == "zorb, by hand")


def test_the_health_report_and_a_fix(desk, client):
    assert client.get(f"{ROUTES}dataset/health").json()["defaults"]["resolution"] == "512"
    (desk.folder / "10_zorb" / "1.txt").write_text("zorb, hat, hat", encoding="utf-8")
    desk.post("refresh")
    report = desk.task("health", {"values": {"resolution": "256", "look_at_pixels": False}})
    place, finding = next(
        (place, each) for place, each in enumerate(report["findings"]) if "hat" in each["tags"] and each["fix"]
    )
    assert finding["items"] == [desk.ids["1.png"]] and report["buckets"] and report["steps"]
    body = {"finding": place, "version": report["version"]}
    assert desk.post("health/preview", body)["examples"] == [[desk.ids["1.png"], "zorb, hat, hat", "zorb, hat"]]
    assert desk.task("health/fix", body)["conflicts"] == []
    assert desk.caption("1.png") == "zorb, hat"
    assert desk.get("health")["stale"] is True
    assert desk.post("health/fix", {**body, "version": -1}, 422)["error"]["field"] == "finding"
    assert desk.post("health", {"values": {"resolution": "x", "subject": "no"}}, 422)["error"]["field"] == "subject"


def test_picture_tools_and_masks(desk, client):
    tools = client.get(f"{ROUTES}dataset/tools").json()["tools"]
    assert "flip" in [each["name"] for each in tools]
    id = desk.ids["1.png"]
    done = desk.task("tools/crop", {"ids": [id], "values": {"left": 10, "top": 0, "right": 110, "bottom": 50}})
    assert done["added"] == 1 and done["conflicts"] == []
    assert Image.open(desk.folder / "10_zorb" / "1-crop.png").size == (100, 50)
    assert desk.caption("1-crop.png") == CAPTIONS["1.png"]
    left, top, right, bottom = desk.post(f"box/{id}", {"aspect": "1:1"})["box"]
    assert right - left == bottom - top == 300
    assert desk.get(f"mask/{id}", 404)["error"]["field"] == "item"
    stroke = {"points": [[10, 10], [90, 10]], "radius": 5, "white": False}
    desk.post(f"mask/{id}", {"start": "white", "strokes": [stroke]})
    mask = Image.open(desk.folder / "10_zorb" / "masks" / "1.png")
    assert mask.size == (300, 400) and mask.getpixel((50, 10)) == 0 and mask.getpixel((50, 100)) == 255
    assert client.get(f"{ROUTES}dataset/{desk.id}/mask/{id}").headers["content-type"] == "image/png"
    assert desk.get(f"items/{id}")["mask"] is True
    client.delete(f"{ROUTES}dataset/{desk.id}/mask/{id}")
    assert desk.get(f"items/{id}")["mask"] is False
    desk.post(f"mask/{id}", {"start": "white", "strokes": [{"points": []}]}, 422)
    desk.post("tools/dance", {"ids": [], "values": {}}, 422)


def test_taggers_are_offered_and_kept_scores_asked(desk, client):
    form = client.get(f"{ROUTES}dataset/tagging").json()
    assert form["taggers"] and "general_threshold" in form["defaults"]
    assert desk.get("tagging") == {"taggers": []}
    assert desk.post("tagging/count", {"values": {}})["pictures"] == 0
    assert desk.post("tagging/preview", {"values": {}}) == {"changed": 0, "examples": []}
    assert desk.post("tagging/disagreements", {"values": {}}) == {"tags": [], "more": 0}
    assert desk.get(f"tagging/{desk.ids['1.png']}") == {"taggers": {}}
    assert desk.post("tagging/write", {"values": {}})["changed"] == []
    assert desk.post("tagging/count", {"values": {"exclude": "("}}, 422)["error"]["field"] == "exclude"


def test_a_dataset_that_nobody_looks_at_is_closed(folder):
    datasets = OpenDatasets()
    found = datasets.open(folder)
    found.wait(WAIT_SECONDS)
    assert datasets.open(folder) is found and datasets.get(found.id) is found
    datasets.close_idle()
    assert datasets.get(found.id) is found
    datasets.close_idle(longer_than=0)
    assert datasets.get(found.id) is None
    assert datasets.open(folder).token != found.token
    datasets.close_idle(longer_than=0)


def test_a_folder_that_can_be_read_no_more_is_said_as_long_as_it_is_so(desk, monkeypatch, caplog):
    collection = DATASETS.get(desk.id).collection
    monkeypatch.setattr(open_datasets, "_LOOK_SECONDS", 0.0)
    with monkeypatch.context() as patch:

        def refuse():
            raise StudioError("the folder cannot be read: stale handle", field="folder")

        patch.setattr(collection, "refresh", refuse)
        wait_for(lambda: desk.get("")["error"])
        assert desk.get("")["error"]["message"].endswith("stale handle")
        looks = DATASETS.get(desk.id)
        for _ in range(3):
            wait_for(lambda: not looks._looking.locked())
            desk.get("")
        assert len([record for record in caplog.records if "stale handle" in record.getMessage()]) == 1
    wait_for(lambda: desk.get("")["error"] is None)


def test_a_dataset_that_is_closed_while_it_is_opened_is_closed_once(folder, monkeypatch):
    from lib_lora.dataset.collection import Collection

    begin, opened, closed, real = threading.Event(), threading.Event(), [], Collection.open

    def open_slowly(*arguments, **options):
        begin.wait(WAIT_SECONDS)
        collection = real(*arguments, **options)
        monkeypatch.setattr(collection, "close", lambda: closed.append(1))
        opened.set()
        return collection

    monkeypatch.setattr(Collection, "open", open_slowly)
    found = open_datasets.OpenDataset(folder)
    found.close()
    begin.set()
    found.wait(WAIT_SECONDS)
    found.close()
    assert closed == [1] and found.collection is None


def wait_for(condition):
    until = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_numbers_of_an_earlier_opening_are_refused(desk):
    before = desk.status["version"].split(".")[0]
    named = f"{ROUTES}dataset/{desk.id}.{before}"
    assert desk.client.get(f"{named}/items/{desk.ids['1.png']}").status_code == 200
    DATASETS.close_idle(longer_than=0)
    (desk.folder / "10_zorb" / "0.png").write_bytes((desk.folder / "10_zorb" / "1.png").read_bytes())
    desk.opened(desk.folder)  # by another page
    refused = desk.client.post(f"{named}/trash", json={"ids": [desk.ids["1.png"]]})
    assert refused.status_code == 409 and "opened anew" in refused.json()["error"]["message"]
    assert (desk.folder / "10_zorb" / "0.png").exists() and (desk.folder / "10_zorb" / "1.png").exists()


def test_a_linked_picture_is_shown_and_its_mask_is_that_beside_the_link(client, folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    blob = tmp_path / "elsewhere" / "0a1b2c"  # as huggingface_hub keeps files
    blob.write_bytes((folder / "10_zorb" / "1.png").read_bytes())
    (folder / "10_zorb" / "linked.png").symlink_to(blob)
    desk = Desk(client, folder)
    number = desk.ids["linked.png"]
    shown = client.get(f"{ROUTES}dataset/{desk.id}/picture/{number}")
    assert shown.status_code == 200 and shown.headers["content-type"] == "image/png"
    desk.post(f"mask/{number}", {"start": "white", "strokes": []})
    assert (folder / "10_zorb" / "masks" / "linked.png").is_file() and desk.get(f"items/{number}")["mask"]
    mask = client.get(f"{ROUTES}dataset/{desk.id}/mask/{number}")
    assert mask.content == (folder / "10_zorb" / "masks" / "linked.png").read_bytes()


def test_a_picture_is_renamed_with_its_caption(desk):
    desk.post("rename", {"ids": [desk.ids["1.png"]], "stem": "first"})
    assert desk.caption("first.png") == CAPTIONS["1.png"] and desk.caption("1.png") is None
    refused = desk.post("rename", {"ids": [desk.ids["3.png"]], "stem": "../out"}, 422)
    assert refused["error"]["field"] == "stem"
    desk.post("undo")
    assert desk.caption("1.png") == CAPTIONS["1.png"]
