defmodule SangoWeb.StudioTest do
  use ExUnit.Case, async: true

  import SangoWeb.HTTP

  alias SangoWeb.StudioPage

  test "the page is served with the right headers" do
    page = get("/")
    assert page.status == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "no-cache"
    assert page.headers["content-security-policy"] == "frame-ancestors 'none'"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["set-cookie"] == nil
    known = get("/", [{"if-none-match", page.headers["etag"]}])
    assert {known.status, known.body} == {304, ""}
    assert request("HEAD", "/").headers["content-length"] == to_string(byte_size(page.body))
    assert get("/index.html").body == page.body
  end

  test "every file of the build is served as it is, or the page says how to build it" do
    folder = Path.expand("../../../../web/dist", __DIR__)

    case StudioPage.paths() do
      ["index.html"] ->
        assert get("/").body =~ "make web"

      paths ->
        for path <- paths do
          answer = get("/" <> path)
          assert {path, answer.status, answer.body} == {path, 200, File.read!(Path.join(folder, path))}
          if String.starts_with?(path, "assets/"), do: assert(answer.headers["cache-control"] =~ "immutable")
        end
    end
  end
end
