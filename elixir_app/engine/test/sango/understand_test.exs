defmodule Sango.UnderstandTest do
  @moduledoc "Questions about videos, on the real engine and the model that ships with this project."
  use Sango.Case, async: false

  @clip Path.expand("../../../../web/public/clips/green-star.mp4", __DIR__)

  defp question(media, options \\ %{}) do
    %{
      kind: "understand",
      question: "What happens?",
      media: media,
      options: Map.merge(%{max_tokens: 12}, options)
    }
  end

  test "an answer comes as events, token by token", %{name: name} = context do
    start_native(context)
    {:ok, %{"id" => id}} = Sango.submit(question({:file, @clip}), name: name)
    :ok = Sango.subscribe(id, name: name)
    events = events(id)
    named = fn which -> for %{"event" => ^which, "data" => data} <- events, do: data end

    assert [%{"frames" => [_ | _] = frames}] = named.("frames")
    assert length(named.("preview")) == length(frames)
    [%{"index" => 0} | _] = tokens = named.("token")
    assert [%{"result" => %{"text" => text}}] = named.("finished")
    assert Enum.map_join(tokens, & &1["text"]) == text

    {:ok, {%{"content_type" => "application/json"}, json}} = Sango.read_result(id, name: name)
    assert json =~ "finish_reason"
    {:ok, %{"tokens" => counted, "first_token_count" => 1}} = Sango.stats(name: name)
    assert counted > 0
  end

  test "a file, its bytes and the hash of a known one are the same", %{name: name} = context do
    start_native(context)
    bytes = File.read!(@clip)
    {:ok, first} = Sango.submit(question({:file, @clip}), name: name)
    [%{"sha256" => hash, "kind" => "video", "frames" => 25}] = first["request"]["media"]
    {:ok, _} = Sango.await(first["id"], 60_000, name: name)

    for media <- [
          {:bytes, bytes},
          [{:bytes, bytes}],
          %{sha256: hash},
          [%{"sha256" => hash}],
          Base.encode64(bytes)
        ] do
      {:ok, job} = Sango.submit(question(media), name: name)
      assert job["request"]["media"] == first["request"]["media"]
      assert job["result"]["cached"]
    end

    {:ok, %{"path" => path, "content_type" => "video/mp4"}} = Sango.media(first["id"], 0, name: name)
    assert File.read!(path) == bytes
    assert {:error, %{code: "not_found"}} = Sango.media(first["id"], 1, name: name)
  end

  test "what is no video is refused", %{name: name, data: data} = context do
    start_native(context)
    text = data <> ".mp4"
    File.write!(text, "hello")
    on_exit(fn -> File.rm!(text) end)

    for {media, code} <- [
          {{:file, text}, "invalid_media"},
          {{:file, "/nowhere/clip.mp4"}, "invalid_media"},
          {{:file, 7}, "invalid_request"},
          {{:bytes, "hello"}, "invalid_media"},
          {nil, "invalid_option"},
          {[], "invalid_option"},
          {[{:other, "x"}], "invalid_request"}
        ] do
      assert {:error, %{code: ^code}} = Sango.submit(question(media), name: name)
    end
  end
end
