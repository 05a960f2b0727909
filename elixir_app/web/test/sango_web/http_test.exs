defmodule SangoWeb.HTTPTest do
  @moduledoc "Every HTTP endpoint, over a real connection, on the shipped model."

  use ExUnit.Case

  import SangoWeb.HTTP
  import SangoWeb.Jobs

  @unknown "/v1/jobs/0199b2c4-5c1e-7f3a-9a55-0c8f7f1d2e3b"

  # 1x1, black.
  @png Base.decode16!(
         "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55" <>
           "0000000a49444154789c636000000002000148afa4710000000049454e44ae426082",
         case: :lower
       )

  defp form(parts) do
    body =
      for {name, bytes} <- parts, into: "" do
        ~s(--BOUND\r\ncontent-disposition: form-data; name="#{name}"; filename="f"\r\n\r\n#{bytes}\r\n)
      end

    {[{"content-type", "multipart/form-data; boundary=BOUND"}], body <> "--BOUND--\r\n"}
  end

  defp post_form(parts) do
    {headers, body} = form(parts)
    request("POST", "/v1/jobs", headers, body)
  end

  test "a job from submission to bytes" do
    request = fresh()
    answer = post(request)
    assert answer.status == 202
    %{"id" => id} = json(answer)
    assert answer.headers["location"] == "/v1/jobs/#{id}"
    assert answer.headers["content-type"] == "application/json"
    assert %{"result" => %{"url" => url, "bytes" => bytes}} = wait(id, "finished")
    assert get("/v1/jobs/#{id}") |> json() |> Map.fetch!("state") == "finished"

    result = get(url)
    assert {result.status, byte_size(result.body)} == {200, bytes}
    assert <<0x89, "PNG", _::binary>> = result.body
    assert result.headers["content-type"] == "image/png"
    assert result.headers["content-disposition"] == ~s(inline; filename="sango-#{id}.png")
    assert result.headers["x-content-type-options"] == "nosniff"
    assert "attachment" <> _ = get(url <> "?download=1").headers["content-disposition"]
    head = request("HEAD", url)
    assert {head.status, head.headers["content-length"], head.body} == {200, to_string(bytes), ""}

    again = post(request)
    assert {again.status, json(again)["result"]["cached"]} == {200, true}
    assert get("/v1/jobs?limit=1") |> json() |> get_in(["jobs", Access.at(0), "id"]) == json(again)["id"]
    assert %{"jobs" => [%{"id" => ^id} | _]} = json(get("/v1/jobs?limit=1&before=#{json(again)["id"]}"))
  end

  test "ranges and validators" do
    %{"result" => %{"url" => url, "bytes" => size}} = drawn()
    whole = get(url)
    etag = whole.headers["etag"]
    range = fn range -> get(url, [{"range", range}]) end

    middle = range.("bytes=2-4")
    assert {middle.status, middle.body} == {206, binary_part(whole.body, 2, 3)}
    assert middle.headers["content-range"] == "bytes 2-4/#{size}"
    assert range.("bytes=-3").body == binary_part(whole.body, size - 3, 3)
    assert range.("bytes=5-99999999").body == binary_part(whole.body, 5, size - 5)

    for wrong <- ["bytes=99999999-", "bytes=4-2", "bytes=0-1,3-4", "pages=1", "bytes=-0", "bytes=x", "bytes="] do
      answer = range.(wrong)
      assert {wrong, answer.status, answer.headers["content-range"]} == {wrong, 416, "bytes */#{size}"}
    end

    known = get(url, [{"if-none-match", etag}])
    assert {known.status, known.body} == {304, ""}
    other = get(url, [{"range", "bytes=2-4"}, {"if-range", ~s("old")}])
    assert {other.status, byte_size(other.body)} == {200, size}
    assert get(url, [{"range", "bytes=2-4"}, {"if-range", etag}]).status == 206
  end

  test "a result whose file is gone has expired" do
    %{"id" => id, "result" => %{"url" => url}} = drawn()
    {:ok, %{"path" => path}} = Sango.result(id)
    File.rm!(path)
    assert code(get(url)) == "expired"
    assert json(get("/v1/jobs/#{id}"))["state"] == "expired"
  end

  test "forms bring images" do
    job = Jason.encode!(fresh())
    answer = post_form([{"job", job}, {"image", @png}, {"mask", ""}])
    assert answer.status == 202
    assert json(answer)["request"]["image"]["width"] == 1

    for {parts, code} <- [
          {[{"image", @png}], "invalid_request"},
          {[{"job", job}, {"other", @png}], "invalid_request"},
          {[{"job", job}, {"job", job}], "invalid_request"},
          {[{"job", job}, {"image", "not a picture"}], "invalid_media"},
          {[{"job", "{"}], "invalid_request"},
          {[{"job", "[]"}, {"image", @png}], "invalid_request"},
          {[{"job", job}, {"image", :binary.copy("x", 1_048_577)}], "too_large"}
        ] do
      assert code(post_form(parts)) == code
    end

    {headers, body} = form([{"job", job}, {"image", @png}])
    cut = binary_part(body, 0, div(byte_size(body), 2))
    assert code(request("POST", "/v1/jobs", headers, cut)) == "invalid_request"
    no_boundary = [{"content-type", "multipart/form-data"}]
    assert code(request("POST", "/v1/jobs", no_boundary, body)) == "invalid_request"
  end

  test "a pipeline hands out what each stage made" do
    clip = File.read!(Path.expand("../../../../web/public/clips/green-star.mp4", __DIR__))
    video = %{steps: 2, frames: 9}
    options = %{seed: System.unique_integer([:positive]), video: video}
    job = Jason.encode!(%{kind: "pipeline", options: options})
    answer = post_form([{"job", job}, {"media", clip}])
    assert answer.status == 202
    %{"id" => id} = json(answer)
    %{"stages" => stages, "result" => result} = wait(id, "finished", 6_000)

    for {stage, type} <- Enum.zip(stages, ["application/json", "image/png", "video/mp4"]) do
      file = get(stage["result"]["url"])
      assert {file.status, file.headers["content-type"]} == {200, type}
      assert file.headers["content-disposition"] =~ "sango-#{id}-#{stage["name"]}."
    end

    part = get(result["url"], [{"range", "bytes=4-7"}])
    assert {part.status, part.body, part.headers["content-type"]} == {206, "ftyp", "video/mp4"}

    for wrong <- ["pipeline", "x", ""] do
      assert code(get("#{result["url"]}?stage=#{wrong}")) == "not_found"
    end

    assert code(get("#{result["url"]}?stage[]=image")) == "not_found"
  end

  test "questions bring files, which are handed out again" do
    clip = File.read!(Path.expand("../../../../web/public/clips/green-star.mp4", __DIR__))
    # The box that says "skip me" may be of any size: more than a body may have in memory.
    large = clip <> <<1_500_000::32, "free">> <> :binary.copy(<<0>>, 1_499_992)
    job = Jason.encode!(%{kind: "understand", question: "What happens?", options: %{max_tokens: 4}})
    answer = post_form([{"media", large}, {"job", job}, {"media", @png}, {"media", ""}])
    assert answer.status == 202
    assert %{"id" => id, "request" => %{"media" => [video, picture]}} = json(answer)
    assert {video["kind"], video["bytes"], picture["kind"]} == {"video", byte_size(large), "image"}
    assert is_binary(wait(id, "finished")["result"]["text"])

    part = get("/v1/jobs/#{id}/media/0", [{"range", "bytes=4-7"}])
    assert {part.status, part.body, part.headers["content-type"]} == {206, "ftyp", "video/mp4"}
    assert part.headers["content-security-policy"] =~ "sandbox"
    for n <- ["2", "x", "-1"], do: assert(code(get("/v1/jobs/#{id}/media/#{n}")) == "not_found")

    media = %{sha256: video["sha256"]}
    again = %{kind: "understand", question: "And now?", media: media, options: %{max_tokens: 4}}
    assert json(post(again))["request"]["media"] == [video]

    for {parts, code} <- [
          {[{"job", job}, {"media", "no video"}], "invalid_media"},
          {[{"job", job}], "invalid_option"},
          {[{"job", job}, {"image", @png}], "invalid_request"},
          {[{"job", job}, {"media", large}, {"media", large}], "too_large"}
        ] do
      assert code(post_form(parts)) == code
    end
  end

  test "every refusal has its code" do
    for {path, code} <- [
          {"/v1/jobs/nonsense", "unknown_job"},
          {@unknown, "unknown_job"},
          {@unknown <> "/events", "unknown_job"},
          {@unknown <> "/result", "unknown_job"},
          {"/v1/jobs/%FF", "invalid_request"},
          {"/v1/jobs?state=done", "invalid_option"},
          {"/v1/jobs?limit=0", "invalid_option"},
          {"/v1/jobs?limit=201", "invalid_option"},
          {"/v1/jobs?limit=many", "invalid_request"},
          {"/v1/jobs?limit=-1", "invalid_request"},
          {"/v1/jobs?limit[]=1", "invalid_request"},
          {"/v1/jobs?state[a]=b", "invalid_request"},
          {"/v1/jobs?colour=red", "invalid_request"},
          {"/v1/jobs?before=nonsense", "unknown_job"},
          {"/v1/jobs?state=%FF", "invalid_request"},
          {"/v1/nothing", "not_found"},
          {"/nothing.html", "not_found"},
          {"/../../etc/passwd", "not_found"},
          {"/%2e%2e/%2e%2e/etc/passwd", "not_found"},
          {"/ops/assets/nothing.js", "not_found"},
          {"/socket/websocket", "invalid_request"},
          {"/socket", "not_found"}
        ] do
      assert {path, code(get(path))} == {path, code}
    end

    assert code(request("DELETE", @unknown)) == "unknown_job"
    put = request("PUT", "/v1/jobs")
    assert {code(put), put.headers["allow"]} == {"method_not_allowed", "GET, HEAD, POST"}
    assert code(request("POST", "/healthz")) == "method_not_allowed"
    assert code(request("POST", "/ops")) == "method_not_allowed"
    assert code(request("POST", "/socket/websocket")) == "method_not_allowed"
    assert code(request("POST", "/v1/nothing")) == "not_found"
    assert code(request("POST", "/")) == "not_found"

    post = &request("POST", "/v1/jobs", [{"content-type", "application/json; charset=utf-8"}], &1)

    for body <- ["", "{\"kind\":", <<0xFF, 0xFE>>, "null", "[]", "7", String.duplicate("[", 100_000)] do
      assert code(post.(body)) == "invalid_request"
    end

    assert code(request("POST", "/v1/jobs", [], "{}")) == "unsupported_media_type"
    assert code(post(%{kind: "video"})) == "invalid_request"
    assert code(post(%{kind: "pipeline"})) == "invalid_option"
    assert code(post(%{kind: "image", prompt: "x", colour: "red"})) == "invalid_request"
    assert code(post(%{kind: "image", prompt: String.duplicate("x", 10_000)})) == "too_large"
    assert code(post(%{kind: "image", prompt: String.duplicate("x", 1_100_000)})) == "too_large"
    assert code(post(%{kind: "image", prompt: "x", model: "none"})) == "unknown_model"

    %{"id" => id} = json(post(long()))
    assert code(get("/v1/jobs/#{id}/result")) == "not_finished"
    assert json(request("DELETE", "/v1/jobs/#{id}"))["state"] in ["cancelled", "running"]
    wait(id, "cancelled")
    assert code(get("/v1/jobs/#{id}/result")) == "no_result"
  end

  test "bytes that are no text are refused like everything else" do
    assert code(get("/v1/jobs", [{"host", <<"evil", 0xFF>>}])) == "forbidden_origin"
    assert code(post(fresh(), [{"origin", <<"http://", 0xFF>>}])) == "forbidden_origin"
    assert code(post(fresh(), [{"idempotency-key", <<"k", 0xFF>>}])) == "invalid_request"
    {_, body} = form([{<<"j", 0xFF>>, "x"}])
    assert code(post_form([{<<"j", 0xFF>>, "x"}])) == "invalid_request"

    assert code(request("POST", "/v1/jobs", [{"content-type", <<"text/", 0xFF>>}], body)) ==
             "unsupported_media_type"
  end

  test "a body without a length is bounded, too" do
    socket = connect()

    send_head(socket, "POST", "/v1/jobs", [
      {"content-type", "application/json"},
      {"transfer-encoding", "chunked"}
    ])

    chunk = ["10000\r\n", :binary.copy("x", 0x10000), "\r\n"]
    for _ <- 1..20, do: :gen_tcp.send(socket, chunk)
    :gen_tcp.send(socket, "0\r\n\r\n")
    assert socket |> read_all("") |> parse() |> code() == "too_large"
  end

  test "a connection goes on after a refused body" do
    for body <- [
          "",
          "{",
          ~s({"kind": "image"}),
          Jason.encode!(%{kind: "image", prompt: String.duplicate("x", 3_000)})
        ],
        headers <- [[{"content-type", "application/json"}], [], [{"origin", "https://evil.example"}]] do
      socket = connect()
      length = {"content-length", to_string(byte_size(body))}
      send_head(socket, "POST", "/v1/jobs", [{"connection", "keep-alive"}, length | headers])
      :gen_tcp.send(socket, body)
      assert {:ok, "HTTP/1.1 4" <> _} = :gen_tcp.recv(socket, 0, 5_000)
      send_head(socket, "GET", "/healthz", [])
      assert {:ok, "HTTP/1.1 200" <> _} = :gen_tcp.recv(socket, 0, 5_000)
      :gen_tcp.close(socket)
    end
  end

  test "an idempotency key may be a header" do
    headers = [{"idempotency-key", "key-#{System.unique_integer([:positive])}"}]
    request = fresh()
    {first, second} = {post(request, headers), post(request, headers)}
    assert {first.status, second.status} == {202, 200}
    assert json(first)["id"] == json(second)["id"]
    assert code(post(fresh(), headers)) == "idempotency_conflict"
  end

  test "events stream and resume" do
    %{"id" => id} = json(post(fresh()))
    path = "/v1/jobs/#{id}/events"
    live = get(path)
    assert live.headers["content-type"] == "text/event-stream"
    numbers = for "id: " <> n <- String.split(live.body, "\n"), do: String.to_integer(n)
    last = List.last(numbers)
    assert numbers == Enum.to_list(1..last)

    "data: " <> data =
      live.body |> String.split("\n") |> Enum.filter(&String.starts_with?(&1, "data: ")) |> List.last()

    assert %{"event" => "finished", "n" => ^last, "job" => ^id} = Jason.decode!(data)
    assert live.body =~ "event: progress\n"

    count = fn answer -> length(String.split(answer.body, "id: ")) - 1 end
    assert count.(get("#{path}?after=#{last - 2}")) == 2
    assert count.(get("#{path}?after=1", [{"last-event-id", "#{last - 1}"}])) == 1
    assert count.(get("#{path}?after=#{last - 1}", [{"last-event-id", "nonsense"}])) == 1
    assert get("#{path}?after=#{last}").status == 204
    assert code(get("#{path}?after=x")) == "invalid_request"
    assert code(get("#{path}?after=-1")) == "invalid_request"
    head = request("HEAD", path)
    assert {head.status, head.headers["content-type"], head.body} == {200, "text/event-stream", ""}
  end

  test "a stream that its client leaves is let go, and the job goes on" do
    %{"id" => id} = submit_long()
    wait(id, "running")
    socket = connect()
    send_head(socket, "GET", "/v1/jobs/#{id}/events", [])
    {:ok, _} = :gen_tcp.recv(socket, 0, 5_000)
    :gen_tcp.close(socket)
    assert {:ok, %{"state" => "running"}} = Sango.get(id)
  end

  test "streams end when the server is stopped" do
    %{"id" => id} = submit_long()
    test = self()
    spawn_link(fn -> send(test, {:stream, get("/v1/jobs/#{id}/events")}) end)
    wait(id, "running")
    refute_receive {:stream, _}, 100
    on_exit(fn -> {:ok, _} = Supervisor.restart_child(SangoWeb.Supervisor, SangoWeb.Drain) end)
    :ok = Supervisor.terminate_child(SangoWeb.Supervisor, SangoWeb.Drain)
    assert_receive {:stream, %{status: 200, body: "id: 1\n" <> _}}, 5_000
  end

  test "a connection serves other requests after a stream" do
    %{"id" => id} = drawn()
    socket = connect()

    for _ <- 1..2 do
      send_head(socket, "GET", "/v1/jobs/#{id}/events", [{"connection", "keep-alive"}])
      assert read_until(socket, "0\r\n\r\n", "") =~ "event: finished"
    end

    send_head(socket, "GET", "/healthz", [])
    assert socket |> read_all("") |> parse() |> json() == %{"status" => "ok"}
  end

  defp read_until(socket, ending, read) do
    if String.ends_with?(read, ending) do
      read
    else
      {:ok, bytes} = :gen_tcp.recv(socket, 0, 5_000)
      read_until(socket, ending, read <> bytes)
    end
  end

  test "operators see how it is" do
    drawn()
    assert %{"models" => [%{"kind" => "amused", "tasks" => ["image"]} | _]} = json(get("/v1/models"))
    assert json(get("/healthz")) == %{"status" => "ok"}
    assert json(get("/readyz")) == %{"status" => "ready"}
    answer = get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"

    for line <- [
          ~r/^sango_jobs\{state="finished"\} [1-9]/m,
          ~r/^sango_runs_total [1-9]/m,
          ~r/^sango_run_seconds_sum \d+\.\d{3}$/m,
          ~r/^sango_sockets \d+$/m,
          ~r/^sango_http_requests_total\{status="200"\} [1-9]/m
        ] do
      assert answer.body =~ line
    end
  end

  test "openapi names what is there" do
    openapi = json(get("/openapi.json"))
    assert map_size(openapi["paths"]) == 10

    for {template, methods} <- openapi["paths"], method <- Map.keys(methods), method != "parameters" do
      path = String.replace(template, "{id}", "0199b2c4-5c1e-7f3a-9a55-0c8f7f1d2e3b")
      path = String.replace(path, "{index}", "0")
      answer = request(String.upcase(method), path)
      if answer.status >= 400, do: assert(code(answer) not in ["not_found", "method_not_allowed"])
    end
  end

  test "other sites stay outside" do
    assert code(post(fresh(), [{"origin", "https://evil.example"}])) == "forbidden_origin"
    assert code(post(fresh(), [{"origin", "null"}])) == "forbidden_origin"
    assert code(get("/v1/jobs", [{"host", "evil.example"}])) == "forbidden_origin"
    assert code(get("/ops", [{"host", "evil.example"}])) == "forbidden_origin"
    assert post(fresh(), [{"origin", "http://" <> authority()}]).status == 202
    assert post(fresh(), [{"origin", "https://studio.example"}]).status == 202
  end

  test "the sockets' doors" do
    upgrade = fn path, headers ->
      socket = connect()

      send_head(
        socket,
        "GET",
        path,
        headers ++
          [
            {"connection", "Upgrade"},
            {"upgrade", "websocket"},
            {"sec-websocket-version", "13"},
            {"sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="}
          ]
      )

      {:ok, bytes} = :gen_tcp.recv(socket, 0, 5_000)
      :gen_tcp.close(socket)
      parse(bytes)
    end

    own = [{"origin", "http://" <> authority()}]
    assert upgrade.("/socket/websocket?vsn=2.0.0", own).status == 101
    assert upgrade.("/socket/websocket", own).status == 101
    assert upgrade.("/socket/websocket?vsn=2.x", []).status == 101
    assert code(upgrade.("/socket/websocket?vsn=1.0.0", own)) == "invalid_request"
    assert code(upgrade.("/socket/websocket?vsn[]=2.0.0", own)) == "invalid_request"
    evil = [{"origin", "https://evil.example"}]
    assert code(upgrade.("/socket/websocket?vsn=2.0.0", evil)) == "forbidden_origin"
    assert code(upgrade.("/live/websocket?vsn=2.0.0", evil)) == "forbidden_origin"
  end
end
