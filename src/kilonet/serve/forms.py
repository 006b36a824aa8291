"""The files of a form (`multipart/form-data`), in memory: nothing is written to a disk that may be full."""

from http import HTTPStatus

from kilonet.serve.decoding import ImageFile
from kilonet.serve.refusal import Refusal, unreadable
from kilonet.utils.extras import needed_from

with needed_from("serve"):
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import Field, File, FormParser, parse_options_header

FORM = "multipart/form-data"
_LONGEST_NAME = 100


def files_of(content_type: str, content: bytes, most: int) -> list[ImageFile]:
    """Return the files of a form.

    Args:
        content_type: the header of the form, with its boundary.
        content: the form.
        most: the most files.

    Raises:
        Refusal: it is no form, it ends early, or it holds anything but 1 to `most` files.
    """
    files: list[ImageFile] = []
    ended: list[bool] = []

    def take(file: File) -> None:
        if len(files) == most:
            raise malformed(f"more than {most} files in the form; send at most {most}")
        file.file_object.seek(0)
        files.append(ImageFile(file.file_object.read(), f"'{_text(file.file_name)}'"))
        file.close()

    def refuse(field: Field) -> None:
        name = _text(field.field_name)
        raise malformed(f"'{name}' in the form is no file; send files only, as curl -F {name}=@photo.png does")

    try:
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        in_memory = {"MAX_MEMORY_FILE_SIZE": len(content) + 1, "UPLOAD_ERROR_ON_BAD_CTE": True}
        parser = FormParser(FORM, refuse, take, lambda: ended.append(True), boundary, config=in_memory)
        parser.write(content)
        parser.finalize()
    except Refusal:
        raise
    except (FormParserError, ValueError, LookupError, TypeError, ArithmeticError, AssertionError, OSError) as error:
        reason = str(error).rstrip(".")[:200] or type(error).__name__
        raise malformed(f"the form is malformed: {reason}; let your HTTP library write it and its boundary") from None
    if not ended and content.strip():
        raise malformed("the form ends early: its closing boundary is missing")
    if not files:
        raise unreadable("no file in the form; send at least one")
    return files


def malformed(line: str) -> Refusal:
    """Return the refusal of a request that is not as its kind has to be."""
    return Refusal(HTTPStatus.BAD_REQUEST, line)


def _text(name: bytes | None) -> str:
    return (name or b"").decode(errors="replace")[:_LONGEST_NAME]
