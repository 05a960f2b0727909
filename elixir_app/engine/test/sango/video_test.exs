defmodule Sango.VideoTest do
  @moduledoc "Videos and pipelines, on the real engine and the models that ship with this project."
  use Sango.Case, async: false

  @clip Path.expand("../../../../web/public/clips/green-star.mp4", __DIR__)
  @short %{steps: 2, frames: 9}

  test "words become a video, phase by phase", %{name: name} = context do
    start_native(context)
    request = %{kind: "video", prompt: "a small green star moves left", options: Map.put(@short, :seed, 1)}
    {:ok, %{"id" => id}} = Sango.submit(request, name: name)
    :ok = Sango.subscribe(id, name: name)
    phases = for %{"event" => "progress", "data" => data} <- events(id), do: data["phase"]
    assert Enum.dedup(phases) == ["text", "denoise", "decode"]
    {:ok, {%{"content_type" => "video/mp4"}, bytes}} = Sango.read_result(id, name: name)
    assert binary_part(bytes, 4, 4) == "ftyp"

    assert {:error, %{code: "invalid_option", message: message}} =
             Sango.submit(%{request | options: %{frames: 10}}, name: name)

    assert message =~ "options.frames"
  end

  test "a pipeline tells its stages, and keeps what each made", %{name: name} = context do
    start_native(context)
    request = %{kind: "pipeline", media: {:file, @clip}, options: %{seed: 1, video: @short}}
    {:ok, %{"id" => id}} = Sango.submit(request, name: name)
    :ok = Sango.subscribe(id, name: name)
    told = for %{"event" => "stage", "data" => data} <- events(id), do: {data["name"], data["state"]}

    assert told ==
             for(
               stage <- ["understand", "image", "video"],
               state <- ["running", "finished"],
               do: {stage, state}
             )

    {:ok, %{"stages" => stages, "result" => %{"text" => text}}} = Sango.get(id, name: name)
    assert hd(stages)["result"]["text"] == text

    for {stage, type} <- [{"understand", "application/json"}, {"image", "image/png"}, {"video", "video/mp4"}] do
      assert {:ok, %{"path" => path, "content_type" => ^type, "bytes" => size}} =
               Sango.stage_result(id, stage, name: name)

      assert File.stat!(path).size == size
    end

    for wrong <- ["pipeline", "x", ""] do
      assert {:error, %{code: "not_found"}} = Sango.stage_result(id, wrong, name: name)
    end

    assert {:error, %{code: "invalid_request"}} = Sango.stage_result(id, 7, name: name)
    assert {:ok, %{"content_type" => "video/mp4"}} = Sango.media(id, 0, name: name)
  end

  test "a pipeline ends with the process that asked for it", %{name: name} = context do
    start_native(context)
    long = %{steps: 100, frames: 49}
    request = %{kind: "pipeline", media: {:file, @clip}, options: %{seed: 2, video: long}}
    {asker, {:ok, %{"id" => id}}} = asker(fn -> Sango.submit(request, name: name) end)
    Process.exit(asker, :kill)
    assert {:ok, %{"state" => "cancelled"}} = Sango.await(id, 20_000, name: name)
  end
end
