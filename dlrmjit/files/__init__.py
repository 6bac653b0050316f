"""The only way by which commands create, replace and remove files and folders.

A command may run for hours next to other people's files. So what is there is replaced or
removed only if its own manifest says that this product wrote it, links are not followed to
places that nobody named, what is written appears as a whole or not at all, and a destination is
tried before the work starts.
"""

from dlrmjit.files.append import check_log, open_log
from dlrmjit.files.create import (
    copy_work_file,
    create,
    create_from_pages,
    link_or_copy,
    make_folder,
    make_output_folder,
    make_parents,
    move_work_file,
    open_work_file,
    remove_work_file,
    replace_work_file,
    rewrite_work_file,
)
from dlrmjit.files.destination import (
    check_all_new,
    check_differs,
    check_new,
    require_space,
    resolve_destination,
    try_destination,
)
from dlrmjit.files.hold import hold, refuse_held
from dlrmjit.files.json_text import parse_json
from dlrmjit.files.listing import FileFacts, Listing
from dlrmjit.files.lock import try_lock
from dlrmjit.files.names import is_inside, safe_names
from dlrmjit.files.new_files import (
    NewFiles,
    check_file_replaceable,
    new_file,
    remove_file,
    replaced_file,
)
from dlrmjit.files.notes import attach_note, is_signed, note_of
from dlrmjit.files.readable import refuse_special
from dlrmjit.files.replace_folder import (
    check_replaceable,
    locate,
    new_folder,
    publish,
    recover,
    remove_folder,
    replaced_folder,
)
from dlrmjit.files.speed import DiskSpeed, disk_speed
from dlrmjit.files.stated_shape import is_possible_shape
from dlrmjit.files.sync import sync_directory, sync_file, sync_path
from dlrmjit.files.work_folder import Survey, WorkFolder, clear_abandoned, survey

__all__ = [
    "DiskSpeed",
    "FileFacts",
    "Listing",
    "NewFiles",
    "Survey",
    "WorkFolder",
    "attach_note",
    "check_all_new",
    "check_differs",
    "check_file_replaceable",
    "check_log",
    "check_new",
    "check_replaceable",
    "clear_abandoned",
    "copy_work_file",
    "create",
    "create_from_pages",
    "disk_speed",
    "hold",
    "is_inside",
    "is_possible_shape",
    "is_signed",
    "link_or_copy",
    "locate",
    "make_folder",
    "make_output_folder",
    "make_parents",
    "move_work_file",
    "new_file",
    "new_folder",
    "note_of",
    "open_log",
    "open_work_file",
    "parse_json",
    "publish",
    "recover",
    "refuse_held",
    "refuse_special",
    "remove_file",
    "remove_folder",
    "remove_work_file",
    "replace_work_file",
    "replaced_file",
    "replaced_folder",
    "require_space",
    "resolve_destination",
    "rewrite_work_file",
    "safe_names",
    "survey",
    "sync_directory",
    "sync_file",
    "sync_path",
    "try_destination",
    "try_lock",
]
